-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- What the event stream tells; kept for a while so that a reader can go on
-- where it was.
CREATE TABLE event (
    id         BIGINT NOT NULL PRIMARY KEY,
    at         BIGINT NOT NULL,
    rollout_id TEXT   NOT NULL,
    machine_id TEXT   NOT NULL,
    body       TEXT   NOT NULL
);

CREATE INDEX event_by_time ON event (at);
