-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- Signed trust documents, every version, as their own bytes.
CREATE TABLE document (
    kind     TEXT   NOT NULL CHECK (kind IN ('root', 'revocations', 'timestamp')),
    version  BIGINT NOT NULL CHECK (version > 0),
    digest   TEXT   NOT NULL UNIQUE,
    envelope TEXT   NOT NULL,
    added_at BIGINT NOT NULL,
    added_by TEXT   NOT NULL,
    PRIMARY KEY (kind, version)
);
