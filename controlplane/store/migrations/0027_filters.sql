-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- A filter of a list reads what it selects, and what is past its retention is
-- found without reading the rest.
CREATE INDEX event_by_rollout ON event (rollout_id, id) WHERE rollout_id <> '';
CREATE INDEX event_by_machine ON event (machine_id, id) WHERE machine_id <> '';

DROP INDEX rollout_by_release;
CREATE INDEX rollout_by_release ON rollout (release_digest, created_at, id);
DROP INDEX rollout_by_state;
CREATE INDEX rollout_by_state ON rollout (state, created_at, id);
CREATE INDEX release_by_line ON release (line, registered_at, digest);

CREATE INDEX enrolment_token_by_end ON enrolment_token (expires_at);
CREATE INDEX certificate_by_end ON certificate (not_after);
CREATE INDEX certificate_answered ON certificate (issued_at) WHERE answer <> '';
CREATE INDEX shown_certificate_ended ON shown_certificate (ended_at) WHERE ended_at > 0;
