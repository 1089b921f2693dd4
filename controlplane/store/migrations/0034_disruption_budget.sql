-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- How many of some machines may be disrupted at once, over all rollouts.
CREATE TABLE disruption_budget (
    name       TEXT   NOT NULL PRIMARY KEY,
    selector   TEXT   NOT NULL,
    max        TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT   NOT NULL
);
