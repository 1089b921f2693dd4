-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- A filter of the audit trail reads what it selects. meta's audit-back is by how
-- many milliseconds at most an entry is dated before an earlier one, because
-- clocks step: so far the order of time may differ from that of seq.
CREATE INDEX audit_by_actor ON audit (actor, seq);
CREATE INDEX audit_by_action ON audit (action, seq);

INSERT INTO meta (name, value) SELECT 'audit-back', CAST(COALESCE(MAX(high - at), 0) AS TEXT)
    FROM (SELECT at, MAX(at) OVER (ORDER BY seq) AS high FROM audit) AS dated
    WHERE true ON CONFLICT (name) DO NOTHING;
