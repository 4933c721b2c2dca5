// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice Another tag stands where this one must: the document is not of the profile read here.
error DerTagUnexpected(uint256 expected, uint256 found);
/// @notice A length is not in its one DER form of at most three bytes.
error DerLengthMalformed(uint256 tag);
/// @notice An element reaches beyond the one that contains it: the document is cut or altered.
error DerOverrun(uint256 tag);
/// @notice An element ends before the one that contains it: bytes follow that nothing explains.
error DerTrailing(uint256 tag);
/// @notice An integer is negative, not in its shortest form, or longer than it may be here.
error DerIntegerMalformed(uint256 maximumBytes);

/// @title DER read in place, from calldata, strictly
/// @notice Positions are absolute calldata offsets. Every element is opened within the end of the
/// element that contains it, so that no offset leads out of the document that was hashed.
library Der {
    uint256 internal constant BOOLEAN = 0x01;
    uint256 internal constant INTEGER = 0x02;
    uint256 internal constant BIT_STRING = 0x03;
    uint256 internal constant OCTET_STRING = 0x04;
    uint256 internal constant OBJECT_IDENTIFIER = 0x06;
    uint256 internal constant ENUMERATED = 0x0a;
    uint256 internal constant UTC_TIME = 0x17;
    uint256 internal constant GENERALIZED_TIME = 0x18;
    uint256 internal constant SEQUENCE = 0x30;

    /// @notice 32 bytes from `at` on. The caller looks only at those before the end it has checked.
    function word(uint256 at) internal pure returns (uint256 value) {
        assembly ("memory-safe") {
            value := calldataload(at)
        }
    }

    /// @notice Where the element at `at` has its content and where the next element starts, which
    /// is at most `end`. Its tag must be `tag`; its length in the one form DER allows.
    function open(uint256 at, uint256 end, uint256 tag)
        internal
        pure
        returns (uint256 content, uint256 next)
    {
        unchecked {
            // Below 128 only where the tag is right and the length in its short form.
            uint256 length = (word(at) >> 240) ^ (tag << 8);
            if (length > 0x7f) return _openLong(at, end, tag);
            content = at + 2;
            // As next is at least content, a header beyond the end is refused here too.
            next = content + length;
            if (next > end) revert DerOverrun(tag);
        }
    }

    /// @notice As `open`, for an element that must fill the one that contains it.
    function openLast(uint256 at, uint256 end, uint256 tag)
        internal
        pure
        returns (uint256 content)
    {
        uint256 next;
        (content, next) = open(at, end, tag);
        if (next != end) revert DerTrailing(tag);
    }

    /// @notice The unsigned integer at `at`, of at most `maximumBytes` (up to 32) bytes.
    function unsigned(uint256 at, uint256 end, uint256 maximumBytes)
        internal
        pure
        returns (uint256 value, uint256 next)
    {
        uint256 content;
        (content, next) = open(at, end, INTEGER);
        bool ok;
        assembly ("memory-safe") {
            let size := sub(next, content)
            let head := calldataload(content)
            // Not empty, not negative.
            ok := and(gt(size, 0), lt(byte(0, head), 0x80))
            if iszero(byte(0, head)) {
                if gt(size, 1) {
                    // A leading zero is right only where the next bit would read as a sign.
                    ok := gt(byte(1, head), 0x7f)
                    size := sub(size, 1)
                    head := calldataload(add(content, 1))
                }
            }
            ok := and(ok, iszero(gt(size, maximumBytes)))
            value := shr(sub(256, shl(3, size)), head)
        }
        if (!ok) revert DerIntegerMalformed(maximumBytes);
    }

    /// @dev As `open`, where the length takes more than one byte, or the tag is another.
    function _openLong(uint256 at, uint256 end, uint256 tag)
        private
        pure
        returns (uint256 content, uint256 next)
    {
        unchecked {
            uint256 head = word(at);
            if (at + 2 > end) revert DerOverrun(tag);
            if (head >> 248 != tag) revert DerTagUnexpected(tag, head >> 248);
            // The low bits count the bytes of the length: 1 to 3, none of them superfluous.
            uint256 size = (head >> 240) & 0x7f;
            if (size - 1 > 2) revert DerLengthMalformed(tag);
            uint256 length = (head << 16) >> (256 - (size << 3));
            if (length < 0x80 || length >> ((size - 1) << 3) == 0) revert DerLengthMalformed(tag);
            // No sum overflows: lengths have 24 bits.
            content = at + 2 + size;
            next = content + length;
            if (next > end) revert DerOverrun(tag);
        }
    }
}
