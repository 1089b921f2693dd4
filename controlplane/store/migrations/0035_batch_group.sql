-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- Which group of the rollout's order a batch belongs to.
ALTER TABLE batch ADD COLUMN group_index BIGINT NOT NULL DEFAULT 0;
