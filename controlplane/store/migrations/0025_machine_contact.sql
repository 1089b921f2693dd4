-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- When machines were last heard of, for a whole fleet again and again: a narrow
-- row is a hundredth of a machine's. machine.last_contact is as old as the rest
-- of its row; the later of the two counts.
CREATE TABLE machine_contact (
    machine_id TEXT   NOT NULL PRIMARY KEY REFERENCES machine (id) ON DELETE CASCADE,
    at         BIGINT NOT NULL
);
