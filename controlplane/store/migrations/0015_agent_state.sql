-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- What an agent says it is doing is a machine's word: bounded by length only.
ALTER TABLE machine ADD COLUMN agent_state_now TEXT NOT NULL DEFAULT '' CHECK (length(agent_state_now) <= 64);
UPDATE machine SET agent_state_now = agent_state;
ALTER TABLE machine DROP COLUMN agent_state;
ALTER TABLE machine RENAME COLUMN agent_state_now TO agent_state;
