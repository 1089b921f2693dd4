-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- Operators' keys; of the secret, only its hash.
CREATE TABLE api_key (
    id         TEXT   NOT NULL PRIMARY KEY,
    owner      TEXT   NOT NULL,
    role       TEXT   NOT NULL CHECK (role IN ('readonly', 'deploy', 'admin')),
    tags       TEXT   NOT NULL,
    hash       TEXT   NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT NOT NULL DEFAULT 0,
    last_used  BIGINT NOT NULL DEFAULT 0
);
