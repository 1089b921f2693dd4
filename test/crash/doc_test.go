// SPDX-License-Identifier: MIT

// Package crash ends the agent, or the whole machine, at every point at which
// something is about to be or has just been written or done on it, and looks
// whether the machine ends right all the same (A02, A03).
//
// The programs are those that are shipped and know nothing of it: the kernel's
// fanotify holds the process that opens one of the agent's files, or executes a
// program, until the test has decided. So each point is exact, and the same in
// each run.
package crash
