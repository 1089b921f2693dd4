-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- What calls were answered, so that one that comes again under its
-- Idempotency-Key is not carried out twice. An answer may hold a secret: it is
-- sealed with what the caller sent, and only hashes of that are here.
CREATE TABLE answer (
    caller TEXT   NOT NULL,
    name   TEXT   NOT NULL,
    call   TEXT   NOT NULL,
    at     BIGINT NOT NULL,
    sealed TEXT   NOT NULL,
    PRIMARY KEY (caller, name)
);

CREATE INDEX answer_by_time ON answer (at);
