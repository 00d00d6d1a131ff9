/**
 * What QEMU checks of certificates before it uses them (`sanity-check`, crypto/tlscredsx509.c for facts): dates, CA or
 * not, and that the CA signed our own one. A mistake then shows where it was made, not at the first peer.
 */
import { X509Certificate } from 'node:crypto';
import { ParameterError } from '../errors.ts';
import type { TlsEndpoint } from './credentials.ts';

export interface CertificateFiles {
  readonly endpoint: TlsEndpoint;
  readonly ca: string;
  readonly caFile: string;
  /** Our own one; null: a client without. */
  readonly cert: string | null;
  readonly certFile: string;
}

/** As many as QEMU looks at. */
const MAX_CA_CERTIFICATES = 16;

/** Throws ParameterError with QEMU's texts. */
export function checkSanity({ endpoint, ca, caFile, cert, certFile }: CertificateFiles): void {
  const own = cert === null ? null : importOwn(cert, certFile, endpoint);
  const authorities = importAuthorities(ca, caFile);
  if (own) {
    checkDates(own, certFile, `The ${endpoint} certificate`);
    if (own.ca) {
      throw new ParameterError(
        `The certificate ${certFile} basic constraints show a CA, but we need one for a ${endpoint}`,
      );
    }
  }
  for (const authority of authorities) {
    checkDates(authority, caFile, 'The CA certificate');
    if (!authority.ca) {
      throw new ParameterError(`The certificate ${caFile} basic constraints do not show a CA`);
    }
  }
  if (!own) return;
  const issuers = authorities.filter((authority) => own.checkIssued(authority));
  if (issuers.some((issuer) => own.verify(issuer.publicKey))) return;
  const why =
    issuers.length > 0 ? 'The certificate is not trusted' : "The certificate hasn't got a known issuer";
  throw new ParameterError(`Our own certificate ${certFile} failed validation against ${caFile}: ${why}`);
}

function importOwn(pem: string, file: string, endpoint: TlsEndpoint): X509Certificate {
  try {
    return new X509Certificate(pem);
  } catch (cause) {
    throw new ParameterError(`Unable to import ${endpoint} certificate ${file}: not a PEM certificate`, {
      cause,
    });
  }
}

function importAuthorities(text: string, file: string): X509Certificate[] {
  const parts = text.match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
  try {
    if (parts.length === 0) throw new ParameterError('no certificate in it');
    return parts.slice(0, MAX_CA_CERTIFICATES).map((part) => new X509Certificate(part));
  } catch (cause) {
    throw new ParameterError(`Unable to import CA certificate list ${file}`, { cause });
  }
}

function checkDates(certificate: X509Certificate, file: string, what: string): void {
  const now = Date.now();
  if (Date.parse(certificate.validTo) < now) throw new ParameterError(`${what} ${file} has expired`);
  if (Date.parse(certificate.validFrom) > now) throw new ParameterError(`${what} ${file} is not yet active`);
}
