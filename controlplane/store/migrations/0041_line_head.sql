-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- The signed header of a line's newest release, which stays when that is deleted:
-- who signs the next one believes no number that was not signed. Of lines whose
-- newest was deleted before nobody has it; they may begin anywhere again.
ALTER TABLE release_line ADD COLUMN envelope TEXT NOT NULL DEFAULT '';

UPDATE release_line SET envelope = COALESCE((SELECT r.envelope FROM release AS r WHERE r.digest = release_line.digest), '');

DELETE FROM release_line WHERE envelope = '';
