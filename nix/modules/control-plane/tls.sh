# SPDX-License-Identifier: MIT
# Copies a certificate and its key to where the control plane reads them. The key comes first: until
# the certificate follows, the pair in use stays in use.
#   RUNTIME_DIRECTORY  belongs to the control plane's user
#   TLS_CERT, TLS_KEY  the files, which only root can read
copy() {
  rm -f "$RUNTIME_DIRECTORY/.$2"
  install -m 0400 "$1" "$RUNTIME_DIRECTORY/.$2"
  chown --reference="$RUNTIME_DIRECTORY/" "$RUNTIME_DIRECTORY/.$2"
  mv -f "$RUNTIME_DIRECTORY/.$2" "$RUNTIME_DIRECTORY/$2"
}
copy "$TLS_KEY" key
copy "$TLS_CERT" cert
