# SPDX-License-Identifier: MIT
# The machines, and their addresses on the network between them.
{
  cache-01 = "10.90.0.2";
  cp-01 = "10.90.0.3";
  db-01 = "10.90.0.4";
  mon-01 = "10.90.0.5";
  web-01 = "10.90.0.6";
  web-02 = "10.90.0.7";
}
