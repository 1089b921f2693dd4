// SPDX-License-Identifier: AGPL-3.0-only

package backup

func init() { workFactor = 10 } // a second for each backup would be most of the tests' time
