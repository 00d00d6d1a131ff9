/**
 * The machine that a page is typed at, and what it may ask for with `run with:`; all of it shell text. ENTER runs as the
 * first process of the namespaces: it makes a new root of the old one's folders, with private ones where pages write.
 */
export const ENTER = `set -eu
exec 250>&3 3>&-
mount --make-rprivate /
root=$SESSION/root
mount -t tmpfs -o mode=755 none "$root"
place() { # place PATH: the same file or folder below the new root
  [ ! -e "$root$1" ] || return 0
  mkdir -p "$root$(dirname "$1")"
  if [ -L "$1" ]; then cp -P "$1" "$root$1"
  elif [ -d "$1" ]; then mkdir "$root$1"; mount --rbind "$1" "$root$1"
  elif [ -e "$1" ]; then : >"$root$1"; mount --bind "$1" "$root$1"
  fi
}
mkdir -m 1777 "$root/tmp"
mkdir -p "$root"/{run,srv,shared,root/colo,session/bin,proc,sys,var/lib}
cp -a /etc "$root/etc"
for path in /bin /dev /lib* /opt /sbin /usr /var/* /var/lib/*; do
  [ "$path" = /var/lib/colo ] || place "$path"
done
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys" 2>/dev/null || mount --rbind /sys "$root/sys"
for path in "\${TOP%/}" "$(dirname "$(dirname "$NODE")")" "$GUEST" "$GUEST_AMD64"; do
  [ -z "$path" ] || [ "$path" = /usr ] || place "$path"
done
mkdir "$root/session/steps"
mount --bind "$SESSION" "$root/session/steps"
cat >"$root/session/bin/colo" <<END
#!/bin/sh
exec "$NODE" "\${TOP%/}/dist/cli/main.js" "\\$@"
END
chmod +x "$root/session/bin/colo"
ln -s /session/bin/colo "$root/root/colo/colo"
rm -rf "$root/etc/colo" "$root/etc/hosts"
printf '%s\\n' '127.0.0.1 localhost storage a' '127.0.0.2 b' '127.0.0.3 c' >"$root/etc/hosts"
ip link set lo up
for address in 192.0.2.{1,2,3} 198.51.100.{1,2,3}; do ip address add "$address/24" dev lo; done
cat >"$root/session/type" <<'END'
set -E
# The first command that fails ends what is typed; a function and a subshell end first.
__failed() { printf '%s: status %s\\n' "$1" "$2" >>"/session/steps/failed-$__step"; }
trap '__status=$?; if [ "$BASH_SOURCE" != /session/type ] && [ "$BASH_SUBSHELL" = 0 ]; then __failed "$BASH_COMMAND" "$__status"; return "$__status" 2>/dev/null; fi' ERR
cd /root/colo
for ((__step = 0; __step < STEPS; __step++)); do
  __file=/session/steps/step-$__step
  . "$__file" >"/session/steps/out-$__step" 2>&1 </dev/null
  __status=$?
  if [ -e "/session/steps/ready-$__step" ]; then
    until . "/session/steps/ready-$__step" 2>/dev/null; do
      kill -0 "$!" 2>/dev/null || { echo 'the program has ended' >>"/session/steps/failed-$__step"; break; }
      sleep 0.1
    done
  fi
  echo "$__status" >&250
  # Output that is shown is compared by whoever reads it; a failure without any ends the page.
  [ -e "/session/steps/shown-$__step" ] && continue
  if [ "$__status" != 0 ] || [ -s "/session/steps/failed-$__step" ]; then break; fi
done
exit
END
exec chroot "$root" bash /session/type
`;

/** The VM of \`nodes\` is made of this. On a busy machine a copy may say nothing for a while. */
const WEB = `name: web
image: /srv/web.qcow2
memory: 128M
hosts: [a, b, c]
heartbeat: { patience: 3s, link-patience: 10s }
network: { switch: 'unix:/run/colo/switch.sock' }
`;

export const WORLDS: Readonly<Record<string, string>> = {
  // The command itself is what ./colo test makes its images with; a page would only wait for it.
  guest: `mv /session/bin/colo /session/bin/colo-itself
cat >/session/bin/colo <<'END'
#!/bin/bash
# colo guest [--arch ARCH] [FORMAT OPTIONS] FILE: a copy of what is built already
if [ "$1" = guest ] && [[ "$*" != *--help* ]]; then
  file=\${!#}
  image=$GUEST
  [[ "$*" != *amd64* ]] || image=$GUEST_AMD64
  format=raw
  [[ $file != *.qcow2 ]] || format=qcow2
  exec qemu-img convert -O "$format" "$image" "$file"
fi
exec /session/bin/colo-itself "$@"
END
chmod +x /session/bin/colo
`,
  // On three machines a reader types: mkdir /shared/colo, colo arbiter prepare /shared/colo, and on each
  // colo node --config /etc/colo/node.yaml
  nodes: `mkdir -p /run/colo
ip link add br0 type bridge
ip link set br0 up
qemu-img convert -O qcow2 "$GUEST" /srv/web.qcow2
mkdir /shared/colo
colo arbiter prepare /shared/colo
colo switch --listen unix:/run/colo/switch.sock --nat --hostfwd tcp:127.0.0.1:8080-10.0.2.15:80 >/run/colo/switch.log 2>&1 &
__at=0
for __name in a b c; do
  __at=$((__at + 1))
  mkdir -p "/etc/colo/$__name"
  cat >"/etc/colo/$__name/node.yaml" <<END
name: $__name
address: 127.0.0.$__at
arbiter: { file: /shared/colo }
state-folder: /var/lib/colo/$__name
run-folder: /run/colo/$__name
heartbeat: { patience: 3s }
metrics: false
memory: 1G
END
  colo node --config "/etc/colo/$__name/node.yaml" >"/run/colo/$__name.log" 2>&1 &
  ln -s "/run/colo/$__name/node.sock" "/run/colo/$__name.sock"
done
ln -s a/node.sock /run/colo/node.sock
for __name in a b c; do
  until [ -S "/run/colo/$__name.sock" ]; do sleep 0.1; done
done
cat >web.yaml <<'END'
${WEB}END
until [ "$(colo hosts --json | grep -c '"isAlive": true')" = 3 ]; do sleep 0.2; done
`,
  web: 'colo up web.yaml --wait\n',
  // Nothing that a page does may change what the other tests are of.
  checkout: `mkdir /root/checkout
mount --bind "\${TOP%/}" /root/checkout
mount -o remount,bind,ro /root/checkout
cd /root/checkout
`,
  vm: `colo vm -machine none -qmp unix:vm.qmp,server=on,wait=off >vm.log 2>&1 &
until [ -S vm.qmp ]; do sleep 0.1; done
`,
  tls: `mkdir -p /etc/pki/colo /etc/colo
(
  cd /etc/pki/colo
  __sign() { # NAME EXTENSION...
    openssl req -newkey rsa:2048 -nodes -subj "/CN=$1" -keyout "$1-key.pem" -out "$1.csr"
    printf '%s\\n' 'subjectAltName=DNS:localhost,DNS:storage,DNS:a,DNS:b,DNS:c,IP:127.0.0.1,IP:127.0.0.2,IP:127.0.0.3,IP:192.0.2.1,IP:192.0.2.2,IP:192.0.2.3' >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile "$1.ext" -out "$1-cert.pem"
  }
  openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=ca -days 2 -keyout ca-key.pem -out ca-cert.pem
  __sign server
  __sign client
)
printf 'alice:%s\\n' 5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a >/etc/colo/keys.psk
`,
};
