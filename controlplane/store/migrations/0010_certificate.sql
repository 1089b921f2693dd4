-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- Client certificates that the control plane issued.
CREATE TABLE certificate (
    serial     TEXT   NOT NULL PRIMARY KEY,
    machine_id TEXT   NOT NULL REFERENCES machine (id),
    issued_at  BIGINT NOT NULL,
    not_after  BIGINT NOT NULL,
    revoked_at BIGINT NOT NULL DEFAULT 0
);

CREATE INDEX certificate_by_machine ON certificate (machine_id);
