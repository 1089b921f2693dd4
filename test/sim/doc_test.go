// SPDX-License-Identifier: MIT

// Package sim runs a fleet in one process: the real control plane, with its
// listeners, its TLS and its store, and real agents, each with its engine, its link
// and its files, on hosts that are not real. Time is that of a synctest bubble, and
// connections are pipes through a network that can fail.
//
// What befalls the fleet is drawn from a seed: crashes, power cuts, partitions,
// messages that are lost, repeated, late or out of order, clocks, full disks,
// operators who race, systems that fail. Rules (rules_test.go) are checked all the
// time, and once more after the trouble has ended and the fleet had time to come to
// rest. One of the rules is that it does.
//
// Every draw is from the seed, so a seed has the same faults at the same times in
// each run. Which of two things comes first that happen at one moment is up to Go.
//
// It cannot prove durability: the disk is honest, and a crash takes place between
// two moments of the bubble, so never in the middle of a write. `make crash` and the
// tests of store and disk are for that. The fetch of a closure, the profile and the
// switch itself are plain fakes: internal/agent tests them.
package sim
