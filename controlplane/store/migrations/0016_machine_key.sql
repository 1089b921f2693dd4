-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- A certificate of our CA counts only while its key is that of the machine's
-- row, by the SHA-256 of the public key. Until now each counted that was not in
-- a list of revoked ones, which was kept by the wall clock.
ALTER TABLE machine ADD COLUMN key_hash TEXT NOT NULL DEFAULT '';

-- What such a list may have missed while the clock was ahead: certificates of a
-- machine that is gone, and those from before its present enrolment.
UPDATE certificate SET revoked_at = issued_at WHERE revoked_at = 0 AND EXISTS (
    SELECT 1 FROM machine AS m WHERE m.id = certificate.machine_id AND (m.lifecycle = 'decommissioned'
        OR (certificate.issued_at < m.enrolled_at AND EXISTS (
            SELECT 1 FROM certificate AS c WHERE c.machine_id = m.id AND c.issued_at = m.enrolled_at))));

-- The key that used the token of the present enrolment, unless that has ended.
-- A token is forgotten after a week; a machine without one takes the key of the
-- first certificate it shows that is listed here and not revoked.
UPDATE machine SET key_hash = COALESCE((
    SELECT MAX(t.key_hash) FROM enrolment_token AS t WHERE t.machine_id = machine.id AND t.used_at > 0 AND t.used_at = machine.enrolled_at
        AND EXISTS (SELECT 1 FROM certificate AS c WHERE c.machine_id = machine.id AND c.revoked_at = 0)), '');

-- A key that has ended never counts again.
CREATE TABLE ended_key (
    key_hash   TEXT   NOT NULL PRIMARY KEY,
    machine_id TEXT   NOT NULL REFERENCES machine (id),
    ended_at   BIGINT NOT NULL
);

-- A renewal that is repeated gets the certificate it got, for an hour.
ALTER TABLE certificate ADD COLUMN key_hash TEXT NOT NULL DEFAULT '';
ALTER TABLE certificate ADD COLUMN answer TEXT NOT NULL DEFAULT '';

-- The certificates of another CA (tls.clientCaFile) that machines have shown. The
-- keys there are that CA's affair, so serial numbers end. No clock deletes them.
CREATE TABLE shown_certificate (
    serial     TEXT   NOT NULL,
    machine_id TEXT   NOT NULL REFERENCES machine (id),
    shown_at   BIGINT NOT NULL,
    ended_at   BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (serial, machine_id)
);

CREATE INDEX shown_certificate_by_machine ON shown_certificate (machine_id);
