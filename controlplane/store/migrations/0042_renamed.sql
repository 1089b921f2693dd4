-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- The name that a machine had before. What happened under that name stays with it:
-- that is what was signed, ordered and reported.
ALTER TABLE machine ADD COLUMN formerly TEXT NOT NULL DEFAULT '';

CREATE INDEX ended_key_by_machine ON ended_key (machine_id);
