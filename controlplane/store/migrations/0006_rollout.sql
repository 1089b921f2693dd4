-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- Rollouts, their batches and what each machine does in them.
CREATE TABLE rollout (
    id             TEXT   NOT NULL PRIMARY KEY,
    release_digest TEXT   NOT NULL REFERENCES release (digest),
    spec           TEXT   NOT NULL,
    state          TEXT   NOT NULL CHECK (state IN ('scheduled', 'running', 'paused', 'reverting', 'completed', 'failed', 'cancelled', 'superseded')),
    why            TEXT   NOT NULL,
    batch          BIGINT NOT NULL,
    machines       BIGINT NOT NULL,
    created_at     BIGINT NOT NULL,
    created_by     TEXT   NOT NULL,
    started_at     BIGINT NOT NULL,
    ended_at       BIGINT NOT NULL,
    progress_at    BIGINT NOT NULL,
    acknowledged   BIGINT NOT NULL,
    wake_at        BIGINT NOT NULL,
    version        BIGINT NOT NULL
);

CREATE INDEX rollout_by_time ON rollout (created_at, id);
CREATE INDEX rollout_by_release ON rollout (release_digest);
CREATE INDEX rollout_by_state ON rollout (state);

CREATE TABLE batch (
    rollout_id   TEXT   NOT NULL REFERENCES rollout (id) ON DELETE CASCADE,
    position     BIGINT NOT NULL,
    state        TEXT   NOT NULL CHECK (state IN ('waiting', 'open', 'soaking', 'gated', 'passed', 'failed', 'reverting')),
    why          TEXT   NOT NULL,
    size         BIGINT NOT NULL,
    counts       TEXT   NOT NULL,
    opened_at    BIGINT NOT NULL,
    soak_until   BIGINT NOT NULL,
    ended_at     BIGINT NOT NULL,
    approved     BIGINT NOT NULL CHECK (approved IN (0, 1)),
    approved_by  TEXT   NOT NULL,
    acknowledged BIGINT NOT NULL,
    PRIMARY KEY (rollout_id, position)
);

CREATE TABLE assignment (
    rollout_id      TEXT   NOT NULL REFERENCES rollout (id) ON DELETE CASCADE,
    machine_id      TEXT   NOT NULL REFERENCES machine (id),
    batch           BIGINT NOT NULL,
    state           TEXT   NOT NULL CHECK (state IN ('pending', 'offered', 'fetching', 'applying', 'awaiting-reboot', 'verifying', 'healthy', 'held', 'failed', 'refused', 'reverting', 'reverted', 'revert-failed', 'skipped', 'superseded')),
    why             TEXT   NOT NULL,
    attempt         BIGINT NOT NULL,
    digest          TEXT   NOT NULL,
    store_path      TEXT   NOT NULL,
    previous_digest TEXT   NOT NULL,
    previous_path   TEXT   NOT NULL,
    outcome         TEXT   NOT NULL CHECK (outcome IN ('', 'live', 'live-degraded', 'staged-reboot', 'reverted', 'revert-failed', 'failed', 'refused')),
    reason          TEXT   NOT NULL,
    message         TEXT   NOT NULL,
    checks          TEXT   NOT NULL,
    offered_at      BIGINT NOT NULL,
    deadline        BIGINT NOT NULL,
    healthy_at      BIGINT NOT NULL,
    ended_at        BIGINT NOT NULL,
    ever_offered    BIGINT NOT NULL CHECK (ever_offered IN (0, 1)),
    PRIMARY KEY (rollout_id, machine_id)
);

CREATE INDEX assignment_by_machine ON assignment (machine_id, state, healthy_at);
