-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- Signed releases. A line's newest is kept apart, so that its sequence is
-- never given again after a release was deleted.
CREATE TABLE release (
    digest        TEXT   NOT NULL PRIMARY KEY,
    line          TEXT   NOT NULL,
    sequence      BIGINT NOT NULL,
    envelope      TEXT   NOT NULL,
    header        TEXT   NOT NULL,
    registered_at BIGINT NOT NULL,
    registered_by TEXT   NOT NULL,
    UNIQUE (line, sequence)
);

CREATE INDEX release_by_time ON release (registered_at, digest);

CREATE TABLE release_entry (
    release_digest TEXT   NOT NULL REFERENCES release (digest) ON DELETE CASCADE,
    position       BIGINT NOT NULL,
    machine_id     TEXT   NOT NULL,
    store_path     TEXT   NOT NULL,
    body           TEXT   NOT NULL,
    PRIMARY KEY (release_digest, machine_id)
);

CREATE TABLE release_line (
    line     TEXT   NOT NULL PRIMARY KEY,
    sequence BIGINT NOT NULL,
    digest   TEXT   NOT NULL
);
