// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Hex} from "./Hex.sol";

/// @notice The keyset is shorter than what the hints point at, or they are out of order.
error KeysetHintsOutOfRange(uint256 notAfterAt, uint256 keyAt, uint256 length);

/// @notice The keyset does not begin with `{"e2ee_public_keys":[`: it is not in canonical form
/// (RFC 8785), or has a member that sorts before that one.
error KeysetStartUnexpected();

/// @notice `],"not_after":`, ten digits and `,"receipt_signing_keys":[` do not stand at this
/// offset, one after the other.
error KeysetNotAfterMisplaced(uint256 offset);

/// @notice A square bracket stands where it could open or close a list, in the keyset's bytes from
/// `from` to `to`: keep it out of the ids of end-to-end and of receipt keys.
error KeysetBracketUnexpected(uint256 from, uint256 to);

/// @notice The hinted key is no direct member of `receipt_signing_keys`.
error KeysetKeyMisplaced(uint256 offset);

/// @notice The entry of an `eip712-secp256k1` key `evm-1` with this address, in lowercase hex,
/// does not stand at this offset.
error KeysetKeyMismatch(uint256 offset, address signer);

/// @notice The keyset names the zero address, for which every bad signature is good.
error KeysetSignerZero();

/// @title What a contract must know of a keyset, read where the caller says it stands
/// @notice A keyset is one JSON text in canonical form (RFC 8785: members sorted, no white space),
/// bound by its SHA-256 into a quote. Measured code wrote it, but an operator may have chosen any
/// string in it: the subject, a domain, a key's id. Offsets come from whoever submits the
/// registration. Neither can make this library read anything but the top-level `not_after` and
/// a direct member of the top-level `receipt_signing_keys`:
///
/// 1. In a canonical text a quotation mark inside a string has a backslash before it, and a mark
///    that closes a string has one of `:,]}` behind it. In `],"not_after":` the first mark has a
///    comma before it and a letter behind it, so it is neither: it opens a string. Everything
///    before it is then outside of strings, and everything behind it is fixed by the pattern. The
///    same holds for `{"algo":`, the start of a key's entry. What a pattern matches is structure.
/// 2. The text opens with `{"e2ee_public_keys":[`, and no bracket stands between there and the `]`
///    of `],"not_after":`. So that `]` closes the first member's list, and `not_after` is the next
///    member of the outermost object. (Brackets in strings are refused too: it costs nothing but a
///    key id with a bracket in it.)
/// 3. `,"receipt_signing_keys":[` follows the digits of the number at once: no sign, fraction or
///    exponent, and the list belongs to the same object. Ten digits, the first not zero, are the
///    years 2001 to 2286.
/// 4. No bracket stands between that list's start and the key's entry, so no list was closed or
///    opened since; and the entry is the first in it or has a comma before it, which comes before
///    `{` only between members of a list. So the entry is a member of that list, not of an object
///    inside one.
/// 5. The entry matches from `{` to `}` and thus has no other members: 40 digits of lowercase hex,
///    then the closing mark.
///
/// A text that is not one JSON value, or has a name twice in one object, is not a keyset: measured
/// code does not bind such, and off-chain verifiers refuse it.
library Keyset {
    uint256 private constant START_SIZE = 21;
    uint256 private constant NOT_AFTER_SIZE = 14 + 10 + 25;
    uint256 private constant ENTRY_SIZE = 58 + 40 + 2;

    /// @notice The signing address and the end (Unix seconds) that `keyset` states.
    /// @param hints The address in the low 160 bits; then, 48 bits each, the offset of the entry's
    /// `{` and that of the `]` before `,"not_after":`.
    function read(bytes calldata keyset, uint256 hints)
        internal
        pure
        returns (address signer, uint256 notAfter)
    {
        signer = address(uint160(hints));
        uint256 keyAt = uint48(hints >> 160);
        uint256 notAfterAt = hints >> 208;
        // Numbers of 48 bits: no sum overflows.
        unchecked {
            uint256 keysAt = notAfterAt + NOT_AFTER_SIZE;
            // From here on every read ends within the keyset: START_SIZE <= notAfterAt, and
            // notAfterAt + NOT_AFTER_SIZE <= keyAt, and keyAt + ENTRY_SIZE <= length.
            if (notAfterAt < START_SIZE || keyAt < keysAt || keyset.length < keyAt + ENTRY_SIZE) {
                revert KeysetHintsOutOfRange(notAfterAt, keyAt, keyset.length);
            }
            if (bytes21(_word(keyset, 0)) != "{\"e2ee_public_keys\":[") {
                revert KeysetStartUnexpected();
            }
            _requireNoBracket(keyset, START_SIZE, notAfterAt);
            notAfter = _notAfter(keyset, notAfterAt);
            if (keyAt != keysAt) {
                if (bytes1(_word(keyset, keyAt - 1)) != ",") revert KeysetKeyMisplaced(keyAt);
                _requireNoBracket(keyset, keysAt, keyAt);
            }
        }
        if (signer == address(0)) revert KeysetSignerZero();
        if (!_isEntryOf(signer, keyset, keyAt)) revert KeysetKeyMismatch(keyAt, signer);
    }

    /// @dev 32 bytes at `offset`, some of which may lie behind the keyset: callers look only at
    /// those that do not.
    function _word(bytes calldata keyset, uint256 offset) private pure returns (bytes32 word) {
        assembly ("memory-safe") {
            word := calldataload(add(keyset.offset, offset))
        }
    }

    /// @dev Looks at the bytes from `from` to before `to` a word at a time; the last word is
    /// shifted until only those remain, with zeros above them. A byte of `y` is zero where the
    /// text has a bracket, and `(y - 0x01..01) & ~y & 0x80..80` is not zero exactly when one is.
    function _requireNoBracket(bytes calldata keyset, uint256 from, uint256 to) private pure {
        if (from == to) return;
        uint256 found;
        assembly ("memory-safe") {
            function bracket(w) -> f {
                let ones := 0x0101010101010101010101010101010101010101010101010101010101010101
                let y := xor(w, 0x5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b)
                f := and(sub(y, ones), not(y))
                y := xor(w, 0x5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d)
                f := or(f, and(sub(y, ones), not(y)))
            }
            let end := sub(add(keyset.offset, to), 0x20)
            let p := add(keyset.offset, from)
            for {} lt(p, end) { p := add(p, 0x20) } { found := or(found, bracket(calldataload(p))) }
            // 1 to 32 bytes are left
            found := or(found, bracket(shr(shl(3, sub(p, end)), calldataload(p))))
            found := and(found, 0x8080808080808080808080808080808080808080808080808080808080808080)
        }
        if (found != 0) revert KeysetBracketUnexpected(from, to);
    }

    function _notAfter(bytes calldata keyset, uint256 at) private pure returns (uint256 value) {
        uint256 head = uint256(_word(keyset, at));
        unchecked {
            uint256 tail = uint256(_word(keyset, at + 24));
            uint256 x = ((head >> 64) ^ 0x30303030303030303030) & 0xffffffffffffffffffff;
            // What differs from the two patterns, bit by bit; then bytes of x, 0 to 9 where the
            // text has digits: adding 0x76 sets the top bit of any other.
            uint256 wrong = (head ^ uint256(bytes32("],\"not_after\":"))) >> 144;
            wrong |= (tail ^ uint256(bytes32(",\"receipt_signing_keys\":["))) >> 56;
            wrong |= (x | (x + 0x76767676767676767676)) & 0x80808080808080808080;
            if (wrong != 0 || x >> 72 == 0) revert KeysetNotAfterMisplaced(at);
            // two digits to each 16 bits, then five numbers below 100
            x = ((x >> 8) & 0x00ff00ff00ff00ff00ff) * 10 + (x & 0x00ff00ff00ff00ff00ff);
            value = (x >> 64) * 1e8 + ((x >> 48) & 0xff) * 1e6 + ((x >> 32) & 0xff) * 1e4
                + ((x >> 16) & 0xff) * 1e2 + (x & 0xff);
        }
    }

    /// @dev The address is rendered and compared, not parsed: one text is right, all others wrong.
    function _isEntryOf(address signer, bytes calldata keyset, uint256 at)
        private
        pure
        returns (bool)
    {
        uint256 key = uint160(signer);
        unchecked {
            uint256 wrong = uint256(
                (_word(keyset, at) ^ "{\"algo\":\"eip712-secp256k1\",\"key_")
                    | (_word(keyset, at + 26) ^ ",\"key_id\":\"evm-1\",\"public_key\":\"")
            );
            wrong |= uint256(_word(keyset, at + 58)) ^ Hex.digits(key >> 32);
            // the last 8 digits, then "}
            uint256 last = uint256(_word(keyset, at + 90)) >> 176;
            return wrong
                    | (last
                        ^ (Hex.digits(key & 0xffffffff) << 16 & 0xffffffffffffffff0000 | 0x227d))
                == 0;
        }
    }
}
