// SPDX-License-Identifier: MIT

// Package crash kills the agent, or cuts the machine's power, just before or after
// each thing that the agent writes or does, and checks that the machine still ends
// on the right system (A02, A03).
//
// It uses the programs as they are shipped. The kernel's fanotify stops each process
// that opens one of the agent's files, or executes a program, until the test has
// decided. So each point is exact, and the same in each run.
package crash
