# SPDX-License-Identifier: MIT
"0.1.0"
