-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- What a machine says of its boot, kernel, address and free disk, as JSON; '' for one
-- that says nothing.
ALTER TABLE machine ADD COLUMN inventory TEXT NOT NULL DEFAULT '';
