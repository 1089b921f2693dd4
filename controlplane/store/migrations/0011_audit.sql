-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- The audit chain: body and hash are the record, the other columns repeat
-- parts of the body to filter by.
CREATE TABLE audit (
    seq     BIGINT NOT NULL PRIMARY KEY,
    at      BIGINT NOT NULL,
    actor   TEXT   NOT NULL,
    action  TEXT   NOT NULL,
    subject TEXT   NOT NULL,
    body    TEXT   NOT NULL,
    hash    TEXT   NOT NULL
);

CREATE INDEX audit_by_time ON audit (at);
CREATE INDEX audit_by_subject ON audit (subject, seq);
