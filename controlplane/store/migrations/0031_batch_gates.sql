-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- What the gates of a soaked batch have answered.
ALTER TABLE batch ADD COLUMN gates TEXT NOT NULL DEFAULT 'null';
