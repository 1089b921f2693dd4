-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- The approval that lets the first batch of a rollout open.
ALTER TABLE rollout ADD COLUMN approved BIGINT NOT NULL DEFAULT 0 CHECK (approved IN (0, 1));
ALTER TABLE rollout ADD COLUMN approved_by TEXT NOT NULL DEFAULT '';
