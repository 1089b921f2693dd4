-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- Single values: the epoch's generation, the mode, the bootstrap secret's hash.
CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
