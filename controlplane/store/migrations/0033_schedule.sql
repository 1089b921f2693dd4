-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- When rollouts begin by themselves, and the last beginning that was dealt with.
CREATE TABLE schedule (
    name         TEXT   NOT NULL PRIMARY KEY,
    cron         TEXT   NOT NULL,
    policy       TEXT   NOT NULL,
    line         TEXT   NOT NULL,
    tolerance_ms BIGINT NOT NULL,
    created_at   BIGINT NOT NULL,
    created_by   TEXT   NOT NULL,
    last_at      BIGINT NOT NULL,
    last_rollout TEXT   NOT NULL DEFAULT '',
    last_why     TEXT   NOT NULL DEFAULT ''
);
