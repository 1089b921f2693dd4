-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- What a machine says of the system that its next boot starts.
ALTER TABLE machine ADD COLUMN needs_reboot BIGINT NOT NULL DEFAULT 0 CHECK (needs_reboot IN (0, 1));

-- Machines without which a rollout went on because they were offline, until they
-- have caught up. The rollout may be deleted before.
CREATE TABLE catch_up (
    machine_id TEXT   NOT NULL PRIMARY KEY REFERENCES machine (id) ON DELETE CASCADE,
    rollout_id TEXT   NOT NULL,
    line       TEXT   NOT NULL,
    at         BIGINT NOT NULL
);
