# SPDX-License-Identifier: MIT
# Folders and files at the top of the repository that belong to the Go module.
[
  "go.mod"
  "go.sum"
  "api"
  "cmd"
  "controlplane"
  "fleet"
  "internal"
  "test"
]
