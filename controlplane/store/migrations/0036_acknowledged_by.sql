-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- How many failures of each type no longer count.
ALTER TABLE batch ADD COLUMN acknowledged_by TEXT NOT NULL DEFAULT 'null';
