-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- One-time tokens; of the secret, only its hash. Once used, a token is bound to
-- the key of the request and answers it with the same certificate.
CREATE TABLE enrolment_token (
    hash        TEXT   NOT NULL PRIMARY KEY,
    machine_id  TEXT   NOT NULL REFERENCES machine (id),
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL,
    replaces    BIGINT NOT NULL CHECK (replaces IN (0, 1)),
    used_at     BIGINT NOT NULL DEFAULT 0,
    key_hash    TEXT   NOT NULL DEFAULT '',
    certificate TEXT   NOT NULL DEFAULT ''
);

CREATE INDEX enrolment_token_by_machine ON enrolment_token (machine_id);
