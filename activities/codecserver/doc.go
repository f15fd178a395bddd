// Package codecserver decrypts payloads for Temporal's Web UI and command-line tool,
// which have no keys: they send what they are about to show, with who asks.
//
// One server is for one namespace, whose keys it has. Every request goes through these
// gates, and what became of it is logged and counted, without any payload:
//
//	origin     a browser's request must come from a page that is listed    403
//	caller     a token of the list, or a JWT that the login has signed     401
//	namespace  the one that the request names, if any, is the server's     403
//	role       reader may decode; writer may encode too                    403
//
// The namespace that a request names is the caller's word. What a JWT allows is
// looked up for the server's own, so nothing is won by naming another.
//
// Tokens, the login's public keys and the server's certificate are read again at least
// every minute; while they cannot be read, those of before count. What the codec
// refuses is answered with its fault (400).
package codecserver
