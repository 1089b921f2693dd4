-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- Deadlines count the time in which the control plane ran, not the wall clock.
-- Running time begins as the time of the last thing that was noted, so that what
-- is left of the deadlines of the version before is left of them now.
CREATE TABLE running_time (
    id   BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    run  BIGINT NOT NULL,
    wall BIGINT NOT NULL
);

INSERT INTO running_time (id, run, wall)
    SELECT 1, MAX(at), MAX(at) FROM (
        SELECT at FROM audit WHERE seq = (SELECT MAX(seq) FROM audit)
        UNION ALL
        SELECT at FROM event WHERE id = (SELECT MAX(id) FROM event)) AS noted
    HAVING MAX(at) IS NOT NULL;

ALTER TABLE rollout ADD COLUMN progress_run BIGINT NOT NULL DEFAULT 0;
ALTER TABLE batch ADD COLUMN opened_run BIGINT NOT NULL DEFAULT 0;
ALTER TABLE assignment ADD COLUMN offered_run BIGINT NOT NULL DEFAULT 0;
ALTER TABLE assignment ADD COLUMN healthy_run BIGINT NOT NULL DEFAULT 0;

UPDATE rollout SET progress_run = progress_at WHERE progress_at > 0;
UPDATE batch SET opened_run = opened_at WHERE opened_at > 0;
UPDATE assignment SET offered_run = offered_at, healthy_run = healthy_at WHERE offered_at > 0 OR healthy_at > 0;

DROP INDEX assignment_by_machine;
CREATE INDEX assignment_by_machine ON assignment (machine_id, state, healthy_run);
-- None, unless a program of the version before runs on the file.
CREATE INDEX assignment_unmeasured ON assignment (rollout_id) WHERE healthy_run = 0 AND healthy_at > 0;
