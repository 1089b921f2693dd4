-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- The role auditor. Which roles there are, and what each may do, the program
-- knows: a role that it does not know may do nothing.
ALTER TABLE api_key ADD COLUMN role_now TEXT NOT NULL DEFAULT '';
UPDATE api_key SET role_now = role;
ALTER TABLE api_key DROP COLUMN role;
ALTER TABLE api_key RENAME COLUMN role_now TO role;
