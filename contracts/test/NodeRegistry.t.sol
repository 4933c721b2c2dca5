// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IMeasurementPolicy} from "../src/interfaces/IMeasurementPolicy.sol";
import {Verdict} from "../src/interfaces/IQuoteVerifier.sol";
import {Hex} from "../src/lib/Hex.sol";
import {KeysetBracketUnexpected, KeysetKeyMismatch} from "../src/lib/Keyset.sol";
import {QuoteLayout} from "../src/lib/QuoteLayout.sol";
import {Statement} from "../src/lib/Statement.sol";
import {EpochEnded, NodeRecords} from "../src/NodeRecords.sol";
import {NodeRegistry, PolicyMissing} from "../src/NodeRegistry.sol";
import {AllowAllPolicy, FakeQuoteVerifier, RegistryLibraries} from "./harness/RegistryHarness.sol";
import {Test} from "./Test.sol";

/// @notice A registry, and registrations that it takes.
abstract contract Registering is Test {
    FakeQuoteVerifier internal quotes;
    NodeRegistry internal registry;

    bytes internal constant START = "{\"e2ee_public_keys\":[],\"not_after\":";
    bytes internal constant KEYS = ",\"receipt_signing_keys\":[";
    bytes internal constant ENTRY =
        "{\"algo\":\"eip712-secp256k1\",\"key_id\":\"evm-1\",\"public_key\":\"";

    function _world() internal {
        vm.warp(1_780_000_000);
        vm.roll(1000);
        quotes = new FakeQuoteVerifier();
        registry = new NodeRegistry(quotes);
    }

    function _keyset(address signer, uint256 notAfter, bytes memory before, bytes memory behind)
        internal
        pure
        returns (bytes memory text, uint256 hints)
    {
        bytes memory number = bytes(vm.toString(notAfter));
        bytes memory head = bytes.concat(START, number, KEYS, before);
        text = bytes.concat(head, ENTRY, _digits(signer), "\"}", behind, "],\"subject\":null}");
        hints = uint256(21) << 208 | head.length << 160 | uint160(signer);
    }

    function _digits(address signer) internal pure returns (bytes memory) {
        uint256 key = uint160(signer);
        return
            bytes.concat(
                bytes32(Hex.digits(key >> 32)), bytes8(uint64(Hex.digits(key & 0xffffffff)))
            );
    }

    /// @notice A TDX 1.0 quote for the keyset and block, whose verdict is as given.
    function _quote(bytes memory keyset, uint256 height, Verdict memory verdict)
        internal
        returns (bytes memory quote)
    {
        bytes32 statement = Statement.hash(sha256(keyset), registry.registrationNonce(height));
        quote = bytes.concat(
            bytes2(0x0400), new bytes(566), statement, new bytes(32 + QuoteLayout.TAIL)
        );
        quotes.believe(quote, "", verdict);
    }

    function _register(
        address signer,
        uint256 notAfter,
        uint256 height,
        Verdict memory verdict,
        IMeasurementPolicy policy
    ) internal returns (address) {
        (bytes memory keyset, uint256 hints) = _keyset(signer, notAfter, "", "");
        bytes memory quote = _quote(keyset, height, verdict);
        return registry.register(quote, "", keyset, hints, height, policy);
    }
}

contract NodeRegistryTest is Registering {
    AllowAllPolicy private policy;
    RegistryLibraries private libraries;

    function setUp() external {
        _world();
        policy = new AllowAllPolicy();
        libraries = new RegistryLibraries();
    }

    function testAnyKeyAndTimeIsReadAsWritten(address signer, uint256 notAfter) external view {
        vm.assume(signer != address(0));
        notAfter = bound(notAfter, 1_000_000_000, 9_999_999_999);
        (bytes memory text, uint256 hints) = _keyset(signer, notAfter, "", "");
        (address read, uint256 ends) = libraries.readKeyset(text, hints);
        vm.assertEq(read, signer);
        vm.assertEq(ends, notAfter);
    }

    function testAnyOtherSignerIsRefused(address signer, address other) external {
        vm.assume(other != address(0) && signer != other);
        (bytes memory text, uint256 hints) = _keyset(signer, 1_780_000_000, "", "");
        hints = (hints >> 160) << 160 | uint160(other);
        vm.expectPartialRevert(KeysetKeyMismatch.selector);
        libraries.readKeyset(text, hints);
    }

    /// @notice Any bytes before the key: read where no bracket is among them, refused otherwise.
    function testBracketsAndOnlyBracketsAreRefused(bytes memory before, address signer) external {
        vm.assume(signer != address(0));
        before = bytes.concat(before, ",");
        bool bracket;
        for (uint256 i = 0; i < before.length; ++i) {
            bracket = bracket || before[i] == "[" || before[i] == "]";
        }
        (bytes memory text, uint256 hints) = _keyset(signer, 1_780_000_000, before, "");
        if (bracket) vm.expectPartialRevert(KeysetBracketUnexpected.selector);
        libraries.readKeyset(text, hints);
    }

    function testABracketAnywhereIsRefused(uint256 size, uint256 at, bool closing) external {
        size = bound(size, 1, 200);
        at = bound(at, 0, size - 1);
        bytes memory before = new bytes(size + 1);
        before[at] = closing ? bytes1("]") : bytes1("[");
        before[size] = ",";
        (bytes memory text, uint256 hints) = _keyset(address(1), 1_780_000_000, before, "");
        vm.expectPartialRevert(KeysetBracketUnexpected.selector);
        libraries.readKeyset(text, hints);
    }

    /// @notice Whatever the hints and whatever stands around, a keyset cut from it is not read
    /// beyond its end.
    function testNothingIsReadBehindTheKeyset(uint256 hints, uint256 cut) external view {
        (bytes memory text, uint256 good) = _keyset(address(1), 1_780_000_000, "", "");
        uint256 end = uint48(good >> 160) + 100;
        cut = bound(cut, 0, end - 1);
        uint256[2] memory tries = [good, hints];
        for (uint256 i = 0; i < 2; ++i) {
            try libraries.readKeysetAmong(text, 0, cut, tries[i]) returns (address, uint256) {
                vm.assertTrue(false, "read beyond the end");
            } catch {}
        }
    }

    function testARecordEndsWithItsFirstEnd(uint64 collateral, uint256 notAfter, uint256 age)
        external
    {
        notAfter = bound(notAfter, block.timestamp + 1, 9_999_999_999);
        collateral = uint64(bound(collateral, block.timestamp + 1, type(uint64).max));
        age = bound(age, 1, 256);
        Verdict memory verdict = Verdict(collateral, 1, 0);
        _register(address(7), notAfter, block.number - age, verdict, policy);
        NodeRecords.Node memory node = registry.nodeOf(address(7), address(policy));
        vm.assertEq(node.expiry, collateral < notAfter ? collateral : notAfter);
        vm.assertEq(node.servedFrom, block.timestamp);
    }

    /// @notice Several blocks may share a second: what could not count is not registered.
    function testNothingIsRegisteredInTheSecondAnEpochEnds(address signer) external {
        vm.assume(signer != address(0));
        vm.prank(address(policy));
        registry.endEpoch();
        vm.roll(1002);
        Verdict memory verdict = Verdict(1_790_000_000, 1, 0);
        (bytes memory keyset, uint256 hints) = _keyset(signer, 1_790_000_000, "", "");
        bytes memory quote = _quote(keyset, 1001, verdict);
        vm.expectPartialRevert(EpochEnded.selector);
        registry.register(quote, "", keyset, hints, 1001, policy);
        vm.warp(block.timestamp + 1);
        registry.register(quote, "", keyset, hints, 1001, policy);
    }

    function testNoRegistrationWithoutAPolicy(address nobody) external {
        vm.assume(nobody.code.length == 0);
        (bytes memory keyset, uint256 hints) = _keyset(address(7), 1_790_000_000, "", "");
        bytes memory quote = _quote(keyset, 999, Verdict(1_790_000_000, 1, 0));
        vm.expectRevert(abi.encodeWithSelector(PolicyMissing.selector, nobody));
        registry.register(quote, "", keyset, hints, 999, IMeasurementPolicy(nobody));
    }
}

/// @notice Registers, waits and ends epochs at random, and keeps its own books of what may count.
contract Nodes is Registering {
    AllowAllPolicy[2] public policies;
    mapping(address signer => mapping(address policy => uint256)) public longest;
    mapping(address signer => mapping(address policy => uint256)) public lastRegistered;
    mapping(address policy => uint256) public lastEnded;
    uint256 public registrations;

    constructor() {
        _world();
        policies = [new AllowAllPolicy(), new AllowAllPolicy()];
    }

    function registryUnderTest() external view returns (NodeRegistry) {
        return registry;
    }

    function register(uint256 who, uint256 which, uint32 collateral, uint32 keys, uint256 age)
        external
    {
        address signer = address(uint160(1 + who % 3));
        address policy = address(policies[which % 2]);
        uint64 expiry = uint64(block.timestamp + 1 + collateral % 100_000);
        uint256 notAfter = block.timestamp + 1 + keys % 100_000;
        uint256 height = block.number - 1 - age % 200;
        (bytes memory keyset, uint256 hints) = _keyset(signer, notAfter, "", "");
        bytes memory quote = _quote(keyset, height, Verdict(expiry, 1, 0));
        try registry.register(quote, "", keyset, hints, height, IMeasurementPolicy(policy)) {
            uint256 first = expiry < notAfter ? expiry : notAfter;
            if (first > longest[signer][policy]) longest[signer][policy] = first;
            lastRegistered[signer][policy] = block.timestamp;
            ++registrations;
        } catch (bytes memory refusal) {
            vm.assertEq(bytes32(bytes4(refusal)), bytes32(EpochEnded.selector));
        }
    }

    function wait(uint256 time, uint256 blocks) external {
        vm.warp(block.timestamp + time % 30_000);
        vm.roll(block.number + 1 + blocks % 50);
    }

    function endEpoch(uint256 which) external {
        address policy = address(policies[which % 2]);
        vm.prank(policy);
        registry.endEpoch();
        lastEnded[policy] = block.timestamp;
    }
}

contract NodeRegistryInvariants is Test {
    Nodes private nodes;
    NodeRegistry private registry;

    function setUp() external {
        nodes = new Nodes();
        registry = nodes.registryUnderTest();
        targetContract(address(nodes));
    }

    /// @notice The random calls do what they are for: otherwise nothing below would mean anything.
    function testTheCallsRegisterAndEnd() external {
        nodes.register(0, 0, 1000, 2000, 0);
        vm.assertEq(nodes.registrations(), 1);
        nodes.endEpoch(0);
        nodes.register(0, 0, 1000, 2000, 0);
        vm.assertEq(nodes.registrations(), 1);
        nodes.wait(1, 1);
        nodes.register(0, 0, 1000, 2000, 0);
        vm.assertEq(nodes.registrations(), 2);
        this.outlives(address(1), address(nodes.policies(0)));
        this.ended(address(1), address(nodes.policies(0)));
    }

    /// @notice No record outlives the longest evidence ever shown for it, nor stands without any.
    function invariantNoRecordOutlivesItsEvidence() external view {
        _each(this.outlives);
    }

    /// @notice A record last renewed before its policy's epoch ended never counts again.
    function invariantAnEndedEpochNeverCounts() external view {
        _each(this.ended);
    }

    function outlives(address signer, address policy) external view {
        NodeRecords.Node memory node = registry.nodeOf(signer, policy);
        vm.assertLe(node.expiry, nodes.longest(signer, policy));
        vm.assertEq(node.renewedAt, nodes.lastRegistered(signer, policy));
        vm.assertLe(node.servedFrom, node.renewedAt);
        if (node.renewedAt != 0) vm.assertGt(node.expiry, node.renewedAt);
    }

    function ended(address signer, address policy) external view {
        NodeRecords.Node memory node = registry.nodeOf(signer, policy);
        vm.assertEq(registry.epochEndedAt(policy), nodes.lastEnded(policy));
        uint256 ends = nodes.lastEnded(policy);
        if (node.renewedAt > ends) vm.assertGt(node.servedFrom, ends);
    }

    function _each(function(address, address) external view check) private view {
        for (uint160 signer = 1; signer <= 3; ++signer) {
            for (uint256 i = 0; i < 2; ++i) {
                check(address(signer), address(nodes.policies(i)));
            }
        }
    }
}
