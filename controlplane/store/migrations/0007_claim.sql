-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- A machine belongs to one active rollout: the primary key says so.
CREATE TABLE claim (
    machine_id TEXT NOT NULL PRIMARY KEY REFERENCES machine (id),
    rollout_id TEXT NOT NULL REFERENCES rollout (id)
);

CREATE INDEX claim_by_rollout ON claim (rollout_id);
