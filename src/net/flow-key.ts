/**
 * What tells one flow from another: addresses, ports, protocol, VLANs, EtherType; and the words for it. All fields are
 * signed 32-bit integers, so that nothing is allocated to hold or compare them.
 *
 * IPv4 and ARP addresses stand in `s3` and `d3`, IPv6 addresses in `s0..s3` and `d0..d3`, most significant word first.
 * What is neither has its Ethernet addresses in `s2`, `s3` and `d2`, `d3`. QEMU's key (docs/qemu-behaviour.md 3.2) is the
 * IPv4 part of it.
 */

/** A `kind`: an IP or ARP packet that is malformed, known by its Ethernet addresses. */
export const MALFORMED_KIND = 2;

export class FlowKey {
  s0 = 0;
  s1 = 0;
  s2 = 0;
  s3 = 0;
  d0 = 0;
  d1 = 0;
  d2 = 0;
  d3 = 0;
  /** Source port in the high half, destination port in the low one. */
  ports = 0;
  /** IP protocol, or the ARP operation. */
  protocol = 0;
  /** The innermost EtherType. */
  etherType = 0;
  /** Thirteen bits a tag, the outer one higher: a bit that says that there is one, and the VLAN's number. */
  vlan = 0;
  /** Set by the owner of a table, to keep apart what all the rest does not; 0 from a PacketView. No part of the text. */
  kind = 0;

  clear(): void {
    this.s0 = this.s1 = this.s2 = this.s3 = 0;
    this.d0 = this.d1 = this.d2 = this.d3 = 0;
    this.ports = 0;
    this.protocol = 0;
    this.etherType = 0;
    this.vlan = 0;
    this.kind = 0;
  }

  copy(other: FlowKey): this {
    this.s0 = other.s0;
    this.s1 = other.s1;
    this.s2 = other.s2;
    this.s3 = other.s3;
    this.d0 = other.d0;
    this.d1 = other.d1;
    this.d2 = other.d2;
    this.d3 = other.d3;
    this.ports = other.ports;
    this.protocol = other.protocol;
    this.etherType = other.etherType;
    this.vlan = other.vlan;
    this.kind = other.kind;
    return this;
  }

  /** The key of the other direction. */
  copyReversed(other: FlowKey): this {
    this.s0 = other.d0;
    this.s1 = other.d1;
    this.s2 = other.d2;
    this.s3 = other.d3;
    this.d0 = other.s0;
    this.d1 = other.s1;
    this.d2 = other.s2;
    this.d3 = other.s3;
    this.ports = (other.ports << 16) | (other.ports >>> 16);
    this.protocol = other.protocol;
    this.etherType = other.etherType;
    this.vlan = other.vlan;
    this.kind = other.kind;
    return this;
  }

  equals(other: FlowKey): boolean {
    return (
      this.ports === other.ports &&
      this.s3 === other.s3 &&
      this.d3 === other.d3 &&
      this.protocol === other.protocol &&
      this.etherType === other.etherType &&
      this.vlan === other.vlan &&
      this.kind === other.kind &&
      this.s2 === other.s2 &&
      this.d2 === other.d2 &&
      this.s0 === other.s0 &&
      this.s1 === other.s1 &&
      this.d0 === other.d0 &&
      this.d1 === other.d1
    );
  }

  /** Mixes all of it with `seed`; signed 32-bit. */
  hash(seed: number): number {
    let hash =
      seed ^ this.protocol ^ (this.kind << 16) ^ Math.imul(this.etherType ^ (this.vlan << 4), 0x9e3779b1);
    hash = Math.imul(hash ^ this.s3, 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 15) ^ this.d3, 0xc2b2ae35);
    hash = Math.imul(hash ^ (hash >>> 13) ^ this.ports, 0x27d4eb2f);
    if ((this.s0 | this.s2 | this.d0 | this.d2) !== 0) {
      hash = Math.imul(hash ^ (hash >>> 15) ^ this.s0, 0x85ebca6b);
      hash = Math.imul(hash ^ (hash >>> 13) ^ this.s1, 0xc2b2ae35);
      hash = Math.imul(hash ^ (hash >>> 15) ^ this.s2, 0x27d4eb2f);
      hash = Math.imul(hash ^ (hash >>> 13) ^ this.d0, 0x85ebca6b);
      hash = Math.imul(hash ^ (hash >>> 15) ^ this.d1, 0xc2b2ae35);
      hash = Math.imul(hash ^ (hash >>> 13) ^ this.d2, 0x27d4eb2f);
    }
    return hash ^ (hash >>> 16);
  }
}
