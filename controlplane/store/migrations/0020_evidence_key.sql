-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- The public half of the key with which a machine signs evidence. Enrolment sets it;
-- a machine that enrolled before gets it once, by its next renewal or check-in. One
-- that has ended is in ended_key, by the SHA-256 of its text, and never counts again.
ALTER TABLE machine ADD COLUMN evidence_key TEXT NOT NULL DEFAULT '' CHECK (length(evidence_key) <= 64);
