-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- Signed trust documents, every version, as their own bytes. A role's new keys
-- begin their versions anew, so they count within the root that gave the keys.
CREATE TABLE document (
    kind         TEXT   NOT NULL CHECK (kind IN ('root', 'revocations', 'timestamp')),
    root_version BIGINT NOT NULL,
    version      BIGINT NOT NULL CHECK (version > 0),
    digest       TEXT   NOT NULL UNIQUE,
    envelope     TEXT   NOT NULL,
    added_at     BIGINT NOT NULL,
    added_by     TEXT   NOT NULL,
    PRIMARY KEY (kind, root_version, version)
);
