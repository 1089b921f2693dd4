-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- How often a machine did not catch up in a rollout that was made for it, how often of
-- these it fell silent, and until when it is not tried again, in running time.
ALTER TABLE catch_up ADD COLUMN tries BIGINT NOT NULL DEFAULT 0;
ALTER TABLE catch_up ADD COLUMN silent BIGINT NOT NULL DEFAULT 0;
ALTER TABLE catch_up ADD COLUMN wait_until BIGINT NOT NULL DEFAULT 0;
