// SPDX-License-Identifier: MIT

// Program mutants weakens the project's refusals, one at a time, and asks whether a
// test notices. `make hostile` runs it.
//
// # What a refusal is
//
// The rule is mechanical, and the packages are those in audited. A return refuses
// if its last operand of a refusing type (an error, a *trust.Refusal, a
// *fleet.Error, a states.Input)
//
//   - makes a refusal: a *trust.Refusal or *fleet.Error, errors.New, fmt.Errorf
//     without a cause, an error variable of a package, a value of states.Refused,
//     states.Failed or states.Held, or a refusal that was a parameter; or
//   - hands on one: the result of a function of this module that refuses by this
//     rule, or of one that got a function literal that does, as it is or wrapped.
//
// An error that was made outside the module is none of ours unless the return makes
// a refusal of it. Nor is one of the packages that by ARCHITECTURE.md decide
// nothing (keepers): it says that something could not be read, written or started.
// In a function without results,
// a return refuses if the statement before it writes a problem or gets an error
// that refuses.
//
// A function of these packages whose last result is a bool decides about
// refusals if the condition of a refusing return calls it, or that of a return
// of another one that decides. Each of its returns counts.
//
// # What a mutant is
//
// The guard of such a return is the innermost if or case around it. Of a guard
// there are two mutants: "never", with which it never refuses, and "inverted";
// and for each alternative of a guard joined by ||, "never-1", "never-2" and so
// on, with which that one is left out. A refusing return without a guard becomes
// "accepted": it returns no error. In a function that decides, a returned
// expression becomes "true" and "false", and a literal without a guard its
// opposite. Nothing else is mutated, and no mutant is left out.
//
// The name of a mutant is its file, function, place in that function, and kind,
// as in internal/trust/accept.go:Accept#1:never.
//
// # How they run
//
// All mutants are compiled into each test program at once, by an overlay (go
// build -overlay), and an environment variable turns one on. So a test program is
// built once and not once for each mutant. Without a mutant each test has to pass
// before its verdict counts. In that run it notes the mutants that would have
// decided otherwise; it meets no others, since they change nothing in it. A mutant
// meets the tests of its own package first, then the suites of widerSuites. It is
// caught when one fails, or they take five times as long as without it and another
// 30 seconds.
//
// The file equivalent.txt lists mutants that change nothing, each with the
// reason. An entry that no longer exists, or that a suite catches, is an error.
package main
