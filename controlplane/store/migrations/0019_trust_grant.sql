-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- Signed grants, as their own bytes. They have no versions, and are removed some
-- time after they have expired.
CREATE TABLE trust_grant (
    digest   TEXT   NOT NULL PRIMARY KEY,
    envelope TEXT   NOT NULL,
    expires  BIGINT NOT NULL,
    added_at BIGINT NOT NULL,
    added_by TEXT   NOT NULL
);

CREATE INDEX trust_grant_by_end ON trust_grant (expires);
