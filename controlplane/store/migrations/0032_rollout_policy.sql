-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- Named presets of a rollout's spec.
CREATE TABLE rollout_policy (
    name       TEXT   NOT NULL PRIMARY KEY,
    spec       TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT   NOT NULL
);
