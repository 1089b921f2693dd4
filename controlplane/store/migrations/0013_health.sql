-- SPDX-License-Identifier: AGPL-3.0-only
-- +goose Up
-- A check passes or fails; a machine is healthy or not. A column takes its
-- CHECK along when it is dropped, on every engine.
ALTER TABLE machine ADD COLUMN health_now TEXT NOT NULL DEFAULT '' CHECK (health_now IN ('', 'pending', 'healthy', 'unhealthy'));
UPDATE machine SET health_now = CASE health WHEN 'passing' THEN 'healthy' WHEN 'failing' THEN 'unhealthy' ELSE health END;
ALTER TABLE machine DROP COLUMN health;
ALTER TABLE machine RENAME COLUMN health_now TO health;
