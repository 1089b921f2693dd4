#!/bin/sh
# SPDX-License-Identifier: MIT
echo "would activate @out@"
