// SPDX-License-Identifier: AGPL-3.0-only

//go:build !race

package program_test

// raceDetector is by how much the race detector multiplies what memory takes.
const raceDetector = 1
