-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- The inbox: a report is acknowledged when its row is durable, and applied
-- once, in the order of arrival.
CREATE TABLE machine_report (
    seq         BIGINT NOT NULL PRIMARY KEY,
    machine_id  TEXT   NOT NULL REFERENCES machine (id),
    report_id   TEXT   NOT NULL,
    received_at BIGINT NOT NULL,
    rollout_id  TEXT   NOT NULL,
    body        TEXT   NOT NULL,
    applied     BIGINT NOT NULL DEFAULT 0 CHECK (applied IN (0, 1)),
    UNIQUE (machine_id, report_id)
);

CREATE INDEX machine_report_waiting ON machine_report (seq) WHERE applied = 0;
CREATE INDEX machine_report_by_machine ON machine_report (machine_id, seq);
CREATE INDEX machine_report_by_time ON machine_report (received_at);
