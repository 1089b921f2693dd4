-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- The tags that a machine says it has. Those of its signed entry are not kept
-- twice: they are read from the entry.
ALTER TABLE machine RENAME COLUMN signed_tags TO claimed_tags;
