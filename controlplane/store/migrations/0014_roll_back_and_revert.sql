-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- A machine rolls back by itself; a revert is what an operator orders. Until
-- now both were called a revert. Who ordered it shows in the reason; what
-- cannot be told stays a revert.
DROP INDEX assignment_by_machine;

ALTER TABLE assignment ADD COLUMN state_now TEXT NOT NULL DEFAULT 'pending' CHECK (state_now IN ('pending', 'offered', 'fetching', 'applying', 'awaiting-reboot', 'verifying', 'healthy', 'held', 'failed', 'refused', 'rolling-back', 'rolled-back', 'rollback-failed', 'reverting', 'reverted', 'revert-failed', 'skipped', 'superseded'));

UPDATE assignment SET state_now = CASE
    WHEN reason IN ('revert-ordered', 'revert-deadline', 'revert-unknown', 'revert-late', 'revert-repeated', 'no-last-good') THEN state
    WHEN message LIKE 'revert-ordered:%' THEN state
    WHEN state = 'reverting' THEN 'rolling-back'
    WHEN state = 'reverted' THEN 'rolled-back'
    WHEN state = 'revert-failed' THEN 'rollback-failed'
    ELSE state END;

ALTER TABLE assignment DROP COLUMN state;
ALTER TABLE assignment RENAME COLUMN state_now TO state;

CREATE INDEX assignment_by_machine ON assignment (machine_id, state, healthy_at);

-- An outcome is a machine's word: bounded by length only, so that one of a
-- newer agent can be kept.
ALTER TABLE assignment ADD COLUMN outcome_now TEXT NOT NULL DEFAULT '' CHECK (length(outcome_now) <= 64);

UPDATE assignment SET outcome_now = CASE
    WHEN outcome = 'reverted' AND state = 'rolled-back' THEN 'rolled-back'
    WHEN outcome = 'revert-failed' AND state = 'rollback-failed' THEN 'rollback-failed'
    ELSE outcome END;

ALTER TABLE assignment DROP COLUMN outcome;
ALTER TABLE assignment RENAME COLUMN outcome_now TO outcome;

UPDATE assignment SET reason = 'previous-failed' WHERE reason = 'revert-error';
UPDATE batch SET counts = REPLACE(counts, '"reverting":', '"rollingBack":');
