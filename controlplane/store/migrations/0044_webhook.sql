-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- Receivers of what is audited, and the messages that they have not taken yet. What
-- they sign with is derived from a key that is no row.
CREATE TABLE webhook (
    id         TEXT   NOT NULL PRIMARY KEY,
    spec       TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT   NOT NULL,
    seen       BIGINT NOT NULL,
    delivered  BIGINT NOT NULL DEFAULT 0,
    failed     BIGINT NOT NULL DEFAULT 0,
    last_error TEXT   NOT NULL DEFAULT ''
);

CREATE TABLE webhook_delivery (
    webhook_id TEXT   NOT NULL REFERENCES webhook (id) ON DELETE CASCADE,
    seq        BIGINT NOT NULL,
    mark       TEXT   NOT NULL,
    action     TEXT   NOT NULL,
    at         BIGINT NOT NULL,
    attempts   BIGINT NOT NULL DEFAULT 0,
    queued_at  BIGINT NOT NULL,
    next_at    BIGINT NOT NULL,
    dead       BIGINT NOT NULL DEFAULT 0 CHECK (dead IN (0, 1)),
    error      TEXT   NOT NULL DEFAULT '',
    PRIMARY KEY (webhook_id, seq)
);

CREATE INDEX webhook_delivery_by_turn ON webhook_delivery (webhook_id, dead, next_at, seq);
