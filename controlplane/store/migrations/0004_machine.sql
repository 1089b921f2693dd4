-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- Machines: what operators set, and what the agent last said of itself.
-- version counts the operators' changes only.
CREATE TABLE machine (
    id            TEXT   NOT NULL PRIMARY KEY,
    lifecycle     TEXT   NOT NULL CHECK (lifecycle IN ('pending', 'provisioning', 'active', 'maintenance', 'decommissioned')),
    operator_tags TEXT   NOT NULL,
    created_at    BIGINT NOT NULL,
    enrolled_at   BIGINT NOT NULL DEFAULT 0,
    version       BIGINT NOT NULL DEFAULT 1,
    system        TEXT   NOT NULL DEFAULT '',
    line          TEXT   NOT NULL DEFAULT '',
    signed_tags   TEXT   NOT NULL DEFAULT '[]',
    running       TEXT   NOT NULL DEFAULT '',
    booted        TEXT   NOT NULL DEFAULT '',
    boot_default  TEXT   NOT NULL DEFAULT '',
    runs_release  TEXT   NOT NULL DEFAULT '',
    boot_id       TEXT   NOT NULL DEFAULT '',
    agent_state   TEXT   NOT NULL DEFAULT '' CHECK (agent_state IN ('', 'idle', 'checking', 'fetching', 'applying', 'verifying', 'rolling-back', 'reporting')),
    waiting       TEXT   NOT NULL DEFAULT '',
    health        TEXT   NOT NULL DEFAULT '' CHECK (health IN ('', 'pending', 'passing', 'failing')),
    checks        TEXT   NOT NULL DEFAULT '[]',
    drift         BIGINT NOT NULL DEFAULT 0 CHECK (drift IN (0, 1)),
    agent_version TEXT   NOT NULL DEFAULT '',
    last_contact  BIGINT NOT NULL DEFAULT 0
);

CREATE INDEX machine_by_release ON machine (runs_release);
